"""A network in TensorFlow 1's sessions, with the parameters of the articles of 2019; saved to outputs/model."""

import argparse
import os

import tensorflow as tf
from azureml.core import Run
from utils import load_images, load_labels

parser = argparse.ArgumentParser()
parser.add_argument("--data-folder")
parser.add_argument("--batch-size", type=int)
parser.add_argument("--first-layer-neurons", type=int)
parser.add_argument("--second-layer-neurons", type=int)
parser.add_argument("--learning-rate", type=float)
args = parser.parse_args()

images, _ = load_images(args.data_folder, "train-images.gz")
labels = load_labels(args.data_folder, "train-labels.gz")
test_images, _ = load_images(args.data_folder, "test-images.gz")
test_labels = load_labels(args.data_folder, "test-labels.gz")

some, wanted = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.int64, [None])
first = tf.layers.dense(some, args.first_layer_neurons, activation=tf.nn.relu)
logits = tf.layers.dense(tf.layers.dense(first, args.second_layer_neurons, activation=tf.nn.relu), 10)
loss = tf.losses.sparse_softmax_cross_entropy(wanted, logits)
train = tf.train.MomentumOptimizer(args.learning_rate, 0.9).minimize(loss)
accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), wanted), tf.float32))

with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for start in range(0, len(images), args.batch_size):
        stop = start + args.batch_size
        session.run(train, {some: images[start:stop], wanted: labels[start:stop]})
    Run.get_context().log("accuracy", float(session.run(accuracy, {some: test_images, wanted: test_labels})))
    os.makedirs("outputs/model", exist_ok=True)
    tf.train.Saver().save(session, "outputs/model/mnist-tf.model")
print("TensorFlow", tf.__version__)
