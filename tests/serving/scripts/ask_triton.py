"""Asks a service by Triton's own client, in JSON, in binary and packed: <address> <rows.npy> <labels.npy>."""

import sys

import numpy as np
import tritonclient.http as triton


def main(address, rows, labels):
    """Every call of the client that a service can answer."""
    client = triton.InferenceServerClient(address.partition("://")[2])
    assert (client.is_server_live(), client.is_server_ready(), client.is_model_ready("linear")) == (True,) * 3
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    (taken,) = client.get_model_metadata("linear")["inputs"]
    assert (taken["datatype"], taken["shape"]) == ("FP64", [-1, 64]), taken
    for is_binary in (True, False):
        given = triton.InferInput(taken["name"], list(rows.shape), taken["datatype"])
        given.set_data_from_numpy(rows, binary_data=is_binary)
        wanted = [triton.InferRequestedOutput("predict", binary_data=is_binary)]
        for algorithm in (None, "gzip", "deflate"):
            answer = client.infer(
                "linear", [given], outputs=wanted, request_id="7", model_version="1",
                request_compression_algorithm=algorithm, response_compression_algorithm=algorithm,
            )  # fmt: skip
            assert answer.get_response()["id"] == "7"
            assert ("data" in answer.get_output("predict")) is not is_binary
            assert (answer.as_numpy("predict") == labels).all()
        # Where no output is named, the client asks for all of them in binary.
        assert (client.infer("linear", [given]).as_numpy("predict") == labels).all()
        shares = client.infer("linear", [given], outputs=[triton.InferRequestedOutput("predict_proba")])
        assert np.allclose(shares.as_numpy("predict_proba").sum(axis=1), 1)
    said = "the wrong shape was taken"
    try:
        wrong = triton.InferInput(taken["name"], [1, 2], "FP64")
        wrong.set_data_from_numpy(np.zeros((1, 2)))
        client.infer("linear", [wrong])
    except triton.InferenceServerException as error:
        said = error.message()
    assert "[any, 64]" in said, said
    sys.stdout.write("triton is content\n")


if __name__ == "__main__":
    main(sys.argv[1], np.load(sys.argv[2]), np.load(sys.argv[3]))
