"""One model each of ONNX, XGBoost, LightGBM and MLflow, learnt from the same flowers, and what each says of them."""

import json
import os

import lightgbm
import mlflow.sklearn
import numpy as np
import onnx
import pandas as pd
import xgboost
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

FLOWERS, KINDS = load_iris(return_X_y=True)
COLUMNS = ["sepal length", "sepal width", "petal length", "petal width"]


def save_onnx(linear):
    """A linear model's arithmetic as ONNX's own operators: scores in, the label of the best out."""
    nodes = [
        helper.make_node("MatMul", ["flower", "weights"], ["products"]),
        helper.make_node("Add", ["products", "biases"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "flowers",
        [helper.make_tensor_value_info("flower", TensorProto.FLOAT, ["rows", 4])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 3]),
        ],
        [
            numpy_helper.from_array(linear.coef_.T.astype("float32"), "weights"),
            numpy_helper.from_array(linear.intercept_.astype("float32"), "biases"),
        ],
    )
    # The oldest forms that have these operators: any ONNX Runtime reads them.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, "outputs/flowers.onnx")


def save_kinds():
    """Each kind of value that goes in and out as it is."""
    kinds = {
        "number": TensorProto.FLOAT, "whole": TensorProto.INT64, "truth": TensorProto.BOOL,
        "text": TensorProto.STRING, "half": TensorProto.FLOAT16,
    }  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Identity", [one], [one + "s"]) for one in kinds],
        "kinds",
        [helper.make_tensor_value_info(one, kind, ["rows"]) for one, kind in kinds.items()],
        [helper.make_tensor_value_info(one + "s", kind, ["rows"]) for one, kind in kinds.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "outputs/kinds.onnx")


def main():
    """Train, save, and note what the originals say."""
    os.makedirs("outputs", exist_ok=True)
    said = {}
    linear = LogisticRegression(max_iter=500).fit(FLOWERS, KINDS)
    save_onnx(linear)
    save_kinds()
    said["Onnx"] = linear.predict(FLOWERS).tolist()

    booster = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "nthread": 1},
        xgboost.DMatrix(FLOWERS, KINDS, feature_names=COLUMNS),
        num_boost_round=10,
    )
    booster.save_model("outputs/flowers.ubj")
    said["XGBoost"] = booster.predict(xgboost.DMatrix(FLOWERS, feature_names=COLUMNS)).tolist()

    trees = lightgbm.train(
        {"objective": "multiclass", "num_class": 3, "num_threads": 1, "verbose": -1},
        lightgbm.Dataset(FLOWERS, KINDS),
        num_boost_round=10,
    )
    trees.save_model("outputs/flowers.txt")
    said["LightGBM"] = trees.predict(FLOWERS).tolist()

    frame = pd.DataFrame(FLOWERS, columns=COLUMNS)
    flavoured = LogisticRegression(max_iter=500).fit(frame, np.array(["setosa", "versicolor", "virginica"])[KINDS])
    # With the requirements said, MLflow need not load the model in a process of its own to find them.
    mlflow.sklearn.save_model(
        flavoured,
        "outputs/flavoured",
        input_example=frame[:1],
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
    )
    said["MLflow"] = flavoured.predict(frame).tolist()
    with open("outputs/said.json", "w") as file:
        json.dump(said, file)


if __name__ == "__main__":
    main()
