"""A regression with the two parameters of the article of 2018."""

import argparse
import os

import sklearn.linear_model
from azureml.core import Run

parser = argparse.ArgumentParser()
parser.add_argument("--data-folder")
parser.add_argument("--regularization", type=float)
args = parser.parse_args()
with open(os.path.join(args.data_folder, "data.txt")) as file:
    values = [float(one) for one in file.read().split()] * 100
places = [[float(number % 3)] for number in range(len(values))]
model = sklearn.linear_model.Ridge(args.regularization).fit(places, values)
Run.get_context().log("slope", float(model.coef_[0]))
