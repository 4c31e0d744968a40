"""MultiWorkerMirroredStrategy by Keras's own loop, with TensorFlow 2.2; every worker writes the model."""

import argparse
import json
import os

import tensorflow as tf
from azureml.core import Run
from utils import load_digits

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--model-dir")
args = parser.parse_args()

task = json.loads(os.environ["TF_CONFIG"])["task"]
strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()
images, labels, _, _ = load_digits("digits")
digits = tf.data.Dataset.from_tensor_slices((images[:1000], labels[:1000])).shuffle(1000, seed=1).repeat().batch(100)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
with strategy.scope():
    model = tf.keras.Sequential(
        [tf.keras.layers.Dense(64, activation="relu", input_shape=(784,)), tf.keras.layers.Dense(10)]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
history = model.fit(digits.with_options(options), epochs=args.epochs, steps_per_epoch=10, verbose=0)
model.save(args.model_dir)
run = Run.get_context()
run.log("workers", strategy.num_replicas_in_sync)
run.log("loss", float(history.history["loss"][-1]))
run.log("accuracy", float(history.history["accuracy"][-1]))
print("worker", task["index"], "TensorFlow", tf.__version__)
