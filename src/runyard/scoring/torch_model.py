"""Models of PyTorch that need no code: TorchScript, and programs that torch.export has made."""

from typing import Any, Optional, Tuple

from runyard.protocol.scoring import TENSORS, ModelFacts, SignatureFacts, TensorFacts
from runyard.scoring.arrays import zeros
from runyard.scoring.model import Arrays
from runyard.scoring.places import find_file
from runyard.scoring.threads import threads

ENDINGS = (".pt", ".pth", ".pt2", ".torchscript")
SIGNATURE = "serving_default"


def load(path: str) -> "TorchModel":
    """The model in the one file."""
    import torch

    torch.set_num_threads(threads())
    file = find_file(path, ENDINGS, "A PyTorch model")
    if file.endswith(".pt2"):
        exported = torch.export.load(file)
        return TorchModel(torch, exported.module(), _exported_inputs(exported))
    try:
        module = torch.jit.load(file, map_location="cpu")
    except RuntimeError as error:
        raise ValueError(
            f"This is no TorchScript ({str(error).splitlines()[0]}). Save the model with torch.jit.save or "
            "torch.export.save; weights alone need an entry script that has the network's code."
        ) from error
    module.eval()
    return TorchModel(torch, module, _scripted_inputs(module))


class TorchModel:
    """A module whose inputs go by position."""

    def __init__(self, torch: Any, module: Any, inputs: Tuple[TensorFacts, ...]) -> None:
        self._torch = torch
        self._module = module
        self._inputs = inputs

    def facts(self) -> ModelFacts:
        """One signature; how many outputs there are is known once one was made."""
        signature = SignatureFacts(self._inputs, (TensorFacts("output_0", "float32", None),))
        return ModelFacts(TENSORS, "PyTorch", self._torch.__version__, {SIGNATURE: signature}, SIGNATURE)

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """A forward pass without gradients."""
        given = [self._torch.from_numpy(inputs[one.name].copy()) for one in self._inputs]
        with self._torch.no_grad():
            result = self._module(*given)
        if isinstance(result, dict):
            return {str(name): one.numpy() for name, one in result.items()}
        results = result if isinstance(result, (list, tuple)) else [result]
        return {f"output_{number}": one.numpy() for number, one in enumerate(results)}

    def sample(self, signature: str) -> Optional[Arrays]:
        """Zeros, where every shape is known."""
        return zeros(SignatureFacts(self._inputs))


def _scripted_inputs(module: Any) -> Tuple[TensorFacts, ...]:
    """Names alone: TorchScript keeps no shapes."""
    arguments = module.forward.schema.arguments[1:]
    return tuple(TensorFacts(one.name, "float32", None) for one in arguments if not one.has_default_value())


def _exported_inputs(exported: Any) -> Tuple[TensorFacts, ...]:
    names = set(exported.graph_signature.user_inputs)
    found = []
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            value = node.meta["val"]
            shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
            found.append(TensorFacts(node.name, str(value.dtype).rpartition(".")[2], shape))
    return tuple(found)
