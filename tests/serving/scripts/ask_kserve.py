"""Asks a service by KServe's own client, in JSON and in binary: <address> <rows.npy> <labels.npy>."""

import asyncio
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


async def main(address, rows, labels):
    """Every call of the client that a service can answer."""
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=1)) as client:
        assert await client.is_server_live(address) is True
        assert await client.is_server_ready(address) is True
        assert await client.is_model_ready(address, "linear") is True
        assert await client.is_model_ready(address, "nobody's") is False
        for is_binary in (False, True):
            given = InferInput("data", list(rows.shape), "FP64")
            given.set_data_from_numpy(rows, binary_data=is_binary)
            for parameters in ({}, {"binary_data_output": True}):
                request = InferRequest("linear", [given], request_id="7", parameters=parameters)
                answer = await client.infer(address, request, model_name="linear")
                assert (answer.id, answer.model_name) == ("7", "linear")
                (output,) = answer.outputs
                assert (output.name, output.datatype) == ("predict", "INT64")
                assert (output.as_numpy() == labels).all()
            wanted = [RequestedOutput("predict_proba", {"binary_data": is_binary})]
            shares = InferRequest("linear", [given], request_outputs=wanted)
            answer = await client.infer(address, shares, model_name="linear")
            assert np.allclose(answer.get_output_by_name("predict_proba").as_numpy().sum(axis=1), 1)
        wrong = InferInput("data", [1, 2], "FP64")
        wrong.set_data_from_numpy(np.zeros((1, 2)))
        said = "the wrong shape was taken"
        try:
            await client.infer(address, InferRequest("linear", [wrong]), model_name="linear")
        except httpx.HTTPStatusError as error:
            said = str(error)
        assert "[any, 64]" in said, said
    sys.stdout.write("kserve is content\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], np.load(sys.argv[2]), np.load(sys.argv[3])))
