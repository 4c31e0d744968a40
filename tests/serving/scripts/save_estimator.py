"""A classifier and a regressor of tf.estimator, exported to read tf.train.Example, and what each says of people."""

import json
import os
import shutil

import numpy as np
import tensorflow as tf

PEOPLE = {"age": np.array([20.0, 31.0, 45.0, 60.0]), "city": np.array(["Rome", "Oslo", "Rome", "Lima"])}
COLUMNS = [
    tf.feature_column.numeric_column("age"),
    tf.feature_column.indicator_column(
        tf.feature_column.categorical_column_with_vocabulary_list("city", ["Rome", "Oslo", "Lima"])
    ),
]


def of_people(answers):
    """All of them, with that of each which is to be learnt."""

    def make():
        people = {name: values.astype(np.float32) if name == "age" else values for name, values in PEOPLE.items()}
        return tf.data.Dataset.from_tensor_slices((people, answers)).batch(4).repeat(20)

    return make


def export(estimator, name):
    """As one folder with saved_model.pb."""
    spec = tf.feature_column.make_parse_example_spec(COLUMNS)
    receive = tf.estimator.export.build_parsing_serving_input_receiver_fn(spec)
    shutil.move(os.fsdecode(estimator.export_saved_model("exported", receive)), "outputs/" + name)


def main():
    """Train, save, and note what the originals say."""
    os.makedirs("outputs", exist_ok=True)
    kinds = tf.estimator.LinearClassifier(COLUMNS, n_classes=3, label_vocabulary=["young", "old", "older"])
    kinds.train(of_people(["young", "young", "old", "older"]))
    export(kinds, "kinds")
    incomes = tf.estimator.LinearRegressor(COLUMNS)
    incomes.train(of_people([10.0, 20.0, 15.0, 30.0]))
    export(incomes, "incomes")
    said = {
        "kinds": [one["probabilities"].tolist() for one in kinds.predict(of_people(["young"] * 4))][:4],
        "incomes": [float(one["predictions"][0]) for one in incomes.predict(of_people([0.0] * 4))][:4],
    }
    with open("outputs/said.json", "w") as file:
        json.dump(said, file)


if __name__ == "__main__":
    main()
