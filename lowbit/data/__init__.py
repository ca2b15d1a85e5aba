"""What is measured on and calibrated with: image files, letterbox, data sets, lists of images, the leak check."""
