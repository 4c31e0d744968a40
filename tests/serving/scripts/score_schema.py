"""An entry script whose arguments have names, types and examples."""

import numpy as np
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema


def init():
    global weights
    weights = np.array([1.0, 10.0])


@input_schema("rows", NumpyParameterType(np.array([[1.0, 2.0]])))
@input_schema("scale", StandardPythonParameterType(2))
@output_schema(NumpyParameterType(np.array([42.0])))
def run(rows, scale):
    assert isinstance(rows, np.ndarray), "what the decorator says comes in"
    return ((rows @ weights) * scale).tolist()
