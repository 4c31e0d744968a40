"""TensorFlow 1's own cluster: variables on parameter servers, which workers change without waiting for each other."""

import json
import os
import sys
import time

import tensorflow as tf
from azureml.core import Run
from utils import load_digits

LAST_STEP = 600
tf_config = os.environ.get("TF_CONFIG")
if not tf_config or tf_config == "":
    raise ValueError("TF_CONFIG not found.")
tf_config_json = json.loads(tf_config)
job, index = tf_config_json["task"]["type"], tf_config_json["task"]["index"]
cluster_spec = tf.train.ClusterSpec(tf_config_json.get("cluster"))
# Read by TensorFlow itself, as the high-level code of the time did.
from tensorflow.contrib.learn import RunConfig  # noqa: E402

read = RunConfig()
assert (read.task_type, read.task_id, read.cluster_spec.as_dict()) == (job, index, cluster_spec.as_dict())
refused = ""
try:
    tf.estimator.RunConfig()
except ValueError as error:
    refused = str(error)
assert 'must have one "chief" node' in refused
import chief  # noqa: E402, F401

read = tf.estimator.RunConfig()
print("tf.estimator is", read.task_type, read.task_id, "of", read.num_worker_replicas, "workers")
server = tf.train.Server(cluster_spec, job_name=job, task_index=index)
if job == "ps":
    server.join()

images, labels, test_images, test_labels = load_digits(sys.argv[1])
here = tf.train.replica_device_setter(worker_device=f"/job:worker/task:{index}", cluster=cluster_spec)
with tf.device(here):
    step = tf.train.get_or_create_global_step()
    some, wanted = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.int64, [None])
    logits = tf.layers.dense(tf.layers.dense(some, 64, activation=tf.nn.relu), 10)
    loss = tf.losses.sparse_softmax_cross_entropy(wanted, logits)
    train = tf.train.GradientDescentOptimizer(0.3).minimize(loss, global_step=step)
    accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), wanted), tf.float32))
on_servers = sorted({one.device for one in tf.global_variables()})

own, reached = 0, 0
hooks = [tf.train.StopAtStepHook(last_step=LAST_STEP)]
if index:
    # A worker that finds nothing made yet looks again after thirty seconds.
    time.sleep(3)
# Without it, a session waits at its end for a worker that has ended already.
alone = tf.ConfigProto(device_filters=["/job:ps", f"/job:worker/task:{index}"])
with tf.train.MonitoredTrainingSession(server.target, index == 0, hooks=hooks, config=alone) as session:
    while not session.should_stop():
        start = own * 50 % len(images)
        batch = {some: images[start : start + 50], wanted: labels[start : start + 50]}
        right = session.run(accuracy, {some: test_images, wanted: test_labels}) if own % 100 == 99 else None
        if session.should_stop():
            # The other worker took the last step meanwhile.
            break
        reached, _ = session.run([step, train], batch)
        own += 1
        if right is not None:
            Run.get_context().log("accuracy", float(right))
Run.get_context().log("steps", own)
Run.get_context().log("reached", int(reached))
print("TensorFlow", tf.__version__, "variables on", " ".join(on_servers))
