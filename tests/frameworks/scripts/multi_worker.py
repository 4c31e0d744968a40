"""MultiWorkerMirroredStrategy with a loop of its own, as Keras 3 needs it."""

import sys

import tensorflow as tf
from azureml.core import Run
from utils import load_digits

BATCH, EPOCHS = 100, 2
# Before anything else of TensorFlow: the workers wait for each other here.
strategy = tf.distribute.MultiWorkerMirroredStrategy()
images, labels, test_images, test_labels = load_digits(sys.argv[1])
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
digits = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images), seed=1)
digits = digits.batch(BATCH, drop_remainder=True).with_options(options)

with strategy.scope():
    model = tf.keras.Sequential(
        [tf.keras.layers.Input((784,)), tf.keras.layers.Dense(64, activation="relu"), tf.keras.layers.Dense(10)]
    )
    optimizer = tf.keras.optimizers.Adam(3e-3)
    losses = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")


@tf.function
def train(batches):
    """One step of both workers; the loss of the whole batch."""

    def step(some, wanted):
        with tf.GradientTape() as tape:
            loss = tf.nn.compute_average_loss(losses(wanted, model(some)), global_batch_size=BATCH)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return strategy.reduce("SUM", strategy.run(step, args=next(batches)), axis=None)


for _ in range(EPOCHS):
    batches = iter(strategy.experimental_distribute_dataset(digits))
    for _ in range(len(images) // BATCH):
        loss = train(batches)
run = Run.get_context()
run.log("replicas", strategy.num_replicas_in_sync)
run.log("loss", float(loss))
run.log("accuracy", float(tf.reduce_mean(tf.cast(tf.argmax(model(test_images), 1) == test_labels, tf.float32))))
