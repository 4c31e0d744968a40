"""A network of two hidden layers in plain TensorFlow: variables, a gradient tape, a SavedModel."""

import argparse

import numpy as np
import tensorflow as tf
from azureml.core import Run
from utils import load_digits

MOMENTUM = 0.9


class Network(tf.Module):
    """Dense layers with ReLU between them; the last gives the logits of ten digits."""

    def __init__(self, sizes):
        super().__init__()
        tf.random.set_seed(1)
        self.layers = [
            (
                tf.Variable(tf.random.normal([before, after], stddev=(2.0 / before) ** 0.5), name="weights"),
                tf.Variable(tf.zeros([after]), name="biases"),
            )
            for before, after in zip(sizes, sizes[1:])
        ]

    def logits(self, images):
        """Logits, one row an image."""
        for weights, biases in self.layers[:-1]:
            images = tf.nn.relu(images @ weights + biases)
        weights, biases = self.layers[-1]
        return images @ weights + biases

    @tf.function
    def train_step(self, images, labels, rate, velocities):
        """One step of gradient descent with momentum; returns the mean loss before it."""
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self.logits(images))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        for variable, gradient, velocity in zip(self.trainable_variables, gradients, velocities):
            velocity.assign(MOMENTUM * velocity + gradient)
            variable.assign_sub(rate * velocity)
        return loss


def main():
    """Train, log each epoch, save to outputs/model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-folder", required=True)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--first-layer-neurons", type=int, default=256)
    parser.add_argument("--second-layer-neurons", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()

    run = Run.get_context()
    images, labels, test_images, test_labels = load_digits(args.data_folder)
    print(f"TensorFlow {tf.__version__}: {len(images)} images to learn from, {len(test_images)} to test with")
    network = Network([images.shape[1], args.first_layer_neurons, args.second_layer_neurons, 10])
    velocities = [tf.Variable(tf.zeros_like(one), trainable=False) for one in network.trainable_variables]
    rate = tf.constant(args.learning_rate)
    order = np.random.default_rng(1)
    for epoch in range(args.epochs):
        losses = []
        shuffled = order.permutation(len(images))
        for start in range(0, len(images), args.batch_size):
            some = shuffled[start : start + args.batch_size]
            losses.append(float(network.train_step(images[some], labels[some], rate, velocities)))
        guesses = np.argmax(network.logits(test_images), axis=1)
        accuracy = float(np.mean(guesses == test_labels))
        run.log("training_loss", float(np.mean(losses)), step=epoch)
        run.log("validation_acc", accuracy, step=epoch)
        print(f"epoch {epoch}: loss {np.mean(losses):.4f}, accuracy {accuracy:.4f}", flush=True)
    run.log("final_acc", accuracy)

    images_in = tf.TensorSpec([None, images.shape[1]], tf.float32, name="images")
    serve = tf.function(lambda images: {"logits": network.logits(images)}, input_signature=[images_in])
    tf.saved_model.save(network, "outputs/model", signatures={"serving_default": serve})
    print("saved to outputs/model")


if __name__ == "__main__":
    main()
