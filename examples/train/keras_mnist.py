"""A network of two hidden layers in Keras: its shape as JSON, its weights beside it."""

import argparse
import os

import keras
import numpy as np
import tensorflow as tf
from azureml.core import Run
from utils import load_digits


class LogToRun(keras.callbacks.Callback):
    """Logs each epoch's figures to the run."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch, logs=None):
        """Called by Keras."""
        self.run.log("Loss", float(logs["val_loss"]), step=epoch)
        self.run.log("Accuracy", float(logs["val_accuracy"]), step=epoch)


def main():
    """Train, log each epoch, save to outputs/model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-folder", required=True)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--first-layer-neurons", type=int, default=300)
    parser.add_argument("--second-layer-neurons", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()

    np.random.seed(1)
    images, labels, test_images, test_labels = load_digits(args.data_folder)
    on = f"Keras {keras.__version__} on TensorFlow {tf.__version__}"
    print(f"{on}: {len(images)} images to learn from, {len(test_images)} to test with")
    model = keras.Sequential(
        [
            keras.layers.Dense(args.first_layer_neurons, activation="relu", input_shape=(images.shape[1],)),
            keras.layers.Dense(args.second_layer_neurons, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(args.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        images,
        labels,
        batch_size=args.batch_size,
        epochs=args.epochs,
        verbose=2,
        validation_data=(test_images, test_labels),
        callbacks=[LogToRun(Run.get_context())],
    )

    os.makedirs("outputs/model", exist_ok=True)
    with open("outputs/model/model.json", "w") as file:
        file.write(model.to_json())
    model.save_weights("outputs/model/model.weights.h5")
    print("saved to outputs/model")


if __name__ == "__main__":
    main()
