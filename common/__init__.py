"""What every part shares, without TensorFlow or Keras: errors, files, the model hub."""
