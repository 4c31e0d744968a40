"""DistributedDataParallel: each process has a part of the digits, and all have one network."""

import os
import sys

import torch
from azureml.core import Run
from utils import load_digits

torch.distributed.init_process_group("gloo")
rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
assert rank == int(os.environ["RANK"])
torch.set_num_threads(1)
torch.manual_seed(rank)
images, labels, test_images, test_labels = map(torch.from_numpy, load_digits(sys.argv[1]))
network = torch.nn.Sequential(torch.nn.Linear(784, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
model = torch.nn.parallel.DistributedDataParallel(network)
digits = torch.utils.data.TensorDataset(images, labels)
sampler = torch.utils.data.distributed.DistributedSampler(digits)
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for epoch in range(2):
    sampler.set_epoch(epoch)
    for some, wanted in torch.utils.data.DataLoader(digits, 50, sampler=sampler):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(some), wanted).backward()
        optimizer.step()
run = Run.get_context()
run.log("size", size)
run.log("weights", float(sum(one.abs().sum() for one in network.parameters())))
run.log("accuracy", float((network(test_images).argmax(1) == test_labels).float().mean()))
torch.distributed.destroy_process_group()
