"""Horovod with Keras, under the name of the article's script: each rank has a part of the digits."""

import argparse

import horovod.tensorflow.keras as hvd
import tensorflow as tf
from azureml.core import Run
from utils import load_digits

parser = argparse.ArgumentParser()
parser.add_argument("--input_data", required=True)
args = parser.parse_args()

hvd.init()
tf.random.set_seed(hvd.rank())
images, labels, test_images, test_labels = load_digits(args.input_data)
model = tf.keras.Sequential(
    [tf.keras.layers.Dense(64, activation="relu", input_shape=(784,)), tf.keras.layers.Dense(10)]
)
loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = hvd.DistributedOptimizer(tf.keras.optimizers.Adam(3e-3))
model.compile(optimizer, loss, metrics=["accuracy"], experimental_run_tf_function=False)
mine = slice(hvd.rank(), None, hvd.size())
first = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
model.fit(images[mine], labels[mine], batch_size=50, epochs=2, verbose=0, callbacks=[first])

run = Run.get_context()
run.log("size", hvd.size())
run.log("sum", float(hvd.allreduce(tf.constant(hvd.rank() + 1.0), average=False)))
run.log("weights", float(sum(tf.reduce_sum(tf.abs(one)) for one in model.trainable_variables)))
run.log("accuracy", float(model.evaluate(test_images, test_labels, verbose=0)[1]))
print("TensorFlow", tf.__version__)
