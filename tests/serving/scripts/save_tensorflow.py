"""A SavedModel with several signatures, and the same small network in Keras' two formats."""

import json
import os

import numpy as np
import tensorflow as tf

ROWS = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)


class Several(tf.Module):
    """Numbers and texts in; one signature each."""

    def __init__(self):
        super().__init__()
        self.weights = tf.Variable(tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="rows")])
    def product(self, rows):
        """Two sums a row."""
        return {"sums": rows @ self.weights}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="text"),
            tf.TensorSpec([None], tf.int32, name="times"),
        ]
    )
    def words(self, text, times):
        """Two inputs, two outputs, one of each kind."""
        return {"upper": tf.strings.upper(text), "length": tf.strings.length(text) * times}


def main():
    """Save, and note what the originals say."""
    os.makedirs("outputs", exist_ok=True)
    several = Several()
    signatures = {"serving_default": several.product, "words": several.words}
    tf.saved_model.save(several, "outputs/several", signatures=signatures)

    tf.keras.utils.set_random_seed(1)
    left, right = tf.keras.Input((4,), name="left"), tf.keras.Input((4,), name="right")
    joined = tf.keras.layers.Concatenate()([tf.keras.layers.Dense(5, "tanh")(left), right])
    network = tf.keras.Model([left, right], tf.keras.layers.Dense(2, "softmax", name="shares")(joined))
    network.save("outputs/network.keras")
    # Sums of rows that come in order: no operator of ours, so the original answers.
    ordered = tf.keras.Sequential([tf.keras.Input((4, 1)), tf.keras.layers.SimpleRNN(3), tf.keras.layers.Dense(1)])
    ordered.save("outputs/ordered.h5")
    said = {
        "several": several.product(ROWS)["sums"].numpy().tolist(),
        "network": network([ROWS, ROWS[::-1]]).numpy().tolist(),
        "ordered": ordered(ROWS[:, :, None]).numpy().tolist(),
    }
    with open("outputs/said.json", "w") as file:
        json.dump(said, file)


if __name__ == "__main__":
    main()
