"""The same network in scikit-learn, for a machine where TensorFlow is too much."""

import argparse
import os

import joblib
from azureml.core import Run
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from utils import load_digits


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
    network = MLPClassifier(
        (args.first_layer_neurons, args.second_layer_neurons),
        batch_size=args.batch_size,
        learning_rate_init=args.learning_rate,
        random_state=1,
    )
    for epoch in range(args.epochs):
        network.partial_fit(images, labels, classes=range(10))
        accuracy = network.score(test_images, test_labels)
        loss = log_loss(test_labels, network.predict_proba(test_images), labels=range(10))
        run.log("training_loss", loss, step=epoch)
        run.log("validation_acc", accuracy, step=epoch)
        print(f"epoch {epoch}: loss {loss:.4f}, accuracy {accuracy:.4f}", flush=True)
    run.log("final_acc", accuracy)
    os.makedirs("outputs/model", exist_ok=True)
    joblib.dump(network, "outputs/model/model.joblib")
    print("saved to outputs/model")


if __name__ == "__main__":
    main()
