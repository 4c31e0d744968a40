"""Workers that share their steps by a parameter server; the article's own block, article.py, reads TF_CONFIG."""

import argparse
import time

import tensorflow as tf
from article import cluster_spec, tf_config_json
from azureml.core import Run
from utils import load_images, load_labels

job, index = tf_config_json["task"]["type"], tf_config_json["task"]["index"]
server = tf.train.Server(cluster_spec, job_name=job, task_index=index)
if job == "ps":
    server.join()

parser = argparse.ArgumentParser()
parser.add_argument("--data-folder")
parser.add_argument("--batch-size", type=int)
parser.add_argument("--learning-rate", type=float)
args, _ = parser.parse_known_args()
images, _ = load_images(args.data_folder, "train-images.gz")
labels = load_labels(args.data_folder, "train-labels.gz")
with tf.device(tf.train.replica_device_setter(worker_device=f"/job:worker/task:{index}", cluster=cluster_spec)):
    step = tf.train.get_or_create_global_step()
    some, wanted = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.int64, [None])
    loss = tf.losses.sparse_softmax_cross_entropy(wanted, tf.layers.dense(some, 10))
    train = tf.train.GradientDescentOptimizer(args.learning_rate).minimize(loss, global_step=step)

reached, hooks, chief = 0, [tf.train.StopAtStepHook(last_step=600)], index == 0
if index:
    # A worker that finds nothing made yet looks again after thirty seconds.
    time.sleep(3)
# Without it, a session waits at its end for a worker that has ended already.
alone = tf.ConfigProto(device_filters=["/job:ps", f"/job:worker/task:{index}"])
with tf.train.MonitoredTrainingSession(server.target, chief, hooks=hooks, config=alone) as session:
    while not session.should_stop():
        start = int(reached) * args.batch_size % len(images)
        stop = start + args.batch_size
        reached, _ = session.run([step, train], {some: images[start:stop], wanted: labels[start:stop]})
Run.get_context().log("reached", int(reached))
