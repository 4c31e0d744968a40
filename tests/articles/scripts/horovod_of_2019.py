"""Horovod in TensorFlow 1's sessions: the ranks begin with the first one's value, and go the mean of their steps."""

import horovod.tensorflow as hvd
import tensorflow as tf
from azureml.core import Run

hvd.init()
given = tf.Variable(hvd.rank() + 1.0)
step = hvd.DistributedOptimizer(tf.train.GradientDescentOptimizer(0.1)).minimize(tf.square(given - hvd.rank()))
with tf.train.MonitoredTrainingSession(hooks=[hvd.BroadcastGlobalVariablesHook(0)]) as session:
    session.run(step)
    after = session.run(given)
run = Run.get_context()
run.log("size", hvd.size())
run.log("after", float(after))
print("TensorFlow", tf.__version__)
