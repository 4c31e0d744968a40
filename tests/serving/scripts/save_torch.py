"""The same small network as TorchScript and as an exported program."""

import json
import os

import torch

ROWS = torch.linspace(-1, 1, 12).reshape(3, 4)


def main():
    """Save, and note what the original says."""
    os.makedirs("outputs", exist_ok=True)
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    torch.jit.save(torch.jit.script(network), "outputs/scripted.pt")
    rows = torch.export.Dim("rows", min=1)
    exported = torch.export.export(network, (ROWS,), dynamic_shapes=({0: rows},))
    torch.export.save(exported, "outputs/exported.pt2")
    with open("outputs/said.json", "w") as file:
        json.dump(network(ROWS).tolist(), file)


if __name__ == "__main__":
    main()
