"""A SavedModel with several signatures, and the same small network in Keras' two formats."""

import json
import os

import numpy as np
import tensorflow as tf

ROWS = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)

HARD = [[np.nan] * 4, [1, np.nan, 2, 3], [np.inf, 1, 2, 3], [-np.inf, 1, 2, 3], [1e39, 0, 0, 0], [-0.0] * 4]


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

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, name="whole"),
            tf.TensorSpec([None], tf.bool, name="truth"),
            tf.TensorSpec([None], tf.bfloat16, name="short"),
        ]
    )
    def kinds(self, whole, truth, short):
        """Numbers of other kinds, one of which numpy does not know."""
        return {"whole": whole, "truth": tf.logical_not(truth), "short": short * 2}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name=one) for one in ("left", "right")])
    def added(self, left, right):
        """Two tables that need the same number of rows."""
        return {"sum": left + right}


class Parsed(tf.Module):
    """Reads tf.train.Example itself, and has what TensorFlow Serving's other two addresses ask for."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        """Which is larger, and by how much? It gives no labels."""
        read = tf.io.parse_example(inputs, {"pair": tf.io.FixedLenFeature([2], tf.float32)})
        return {"scores": tf.nn.softmax(read["pair"])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs):
        """The length of an image's file, times a whole number."""
        features = {
            "image": tf.io.FixedLenFeature([], tf.string),
            "times": tf.io.FixedLenFeature([], tf.int64, default_value=1),
        }
        read = tf.io.parse_example(inputs, features)
        return {"outputs": tf.cast(tf.strings.length(read["image"]), tf.float32) * tf.cast(read["times"], tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
    def size(self, image):
        """Files as they are, and their lengths."""
        return {"bytes": tf.strings.length(image), "same": image}


def save_parsed():
    """TensorFlow 2 writes each signature as one to predict; the file is told what it is for."""
    parsed = Parsed()
    signatures = {"serving_default": parsed.size, "larger": parsed.classify, "length": parsed.regress}
    tf.saved_model.save(parsed, "outputs/parsed", signatures=signatures)
    names = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater("outputs/parsed")
    names.replace_method_name(signature_key="larger", method_name="tensorflow/serving/classify")
    names.replace_method_name(signature_key="length", method_name="tensorflow/serving/regress")
    names.save()


def main():
    """Save, and note what the originals say."""
    os.makedirs("outputs", exist_ok=True)
    several = Several()
    signatures = {
        "serving_default": several.product, "words": several.words, "kinds": several.kinds, "added": several.added,
    }  # fmt: skip
    tf.saved_model.save(several, "outputs/several", signatures=signatures)
    save_parsed()

    tf.keras.utils.set_random_seed(1)
    left, right = tf.keras.Input((4,), name="left"), tf.keras.Input((4,), name="right")
    joined = tf.keras.layers.Concatenate()([tf.keras.layers.Dense(5, "tanh")(left), right])
    network = tf.keras.Model([left, right], tf.keras.layers.Dense(2, "softmax", name="shares")(joined))
    network.save("outputs/network.keras")
    # Sums of rows that come in order: no operator of ours, so the original answers.
    ordered = tf.keras.Sequential([tf.keras.Input((4, 1)), tf.keras.layers.SimpleRNN(3), tf.keras.layers.Dense(1)])
    ordered.save("outputs/ordered.h5")
    # Activations after products, which TensorFlow does in one.
    shy = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(5, "relu"), tf.keras.layers.Dense(2)])
    shy.save("outputs/shy.keras")
    text = tf.keras.Input((1,), dtype="string", name="word")
    tf.keras.Model(text, tf.keras.layers.StringLookup(vocabulary=["one", "zwölf"])(text)).save("outputs/words.keras")
    said = {
        "shy": [shy.predict_on_batch(np.array([row], "float32")).tolist() for row in HARD],
        "several": several.product(ROWS)["sums"].numpy().tolist(),
        "network": network([ROWS, ROWS[::-1]]).numpy().tolist(),
        "ordered": ordered(ROWS[:, :, None]).numpy().tolist(),
    }
    with open("outputs/said.json", "w") as file:
        json.dump(said, file)


if __name__ == "__main__":
    main()
