"""konohana finds and names the characters of an animated show.

import konohana
model = konohana.load('weights/net.pt', device='cpu')
detections = model([image])  # float tensor 3 x H x W, RGB, 0 to 1 -> [{'boxes', 'labels', 'scores'}]
model.class_names[detections[0]['labels'][0] - 1]
"""

from konohana.inference import default_weights, load, pick_device

__all__ = ['default_weights', 'load', 'pick_device']
