"""What streams and controls are called in tables, figures and sentences."""

STREAMS = {"fused": "both streams", "rgb": "RGB", "flow": "optical flow"}  # in the order of the page

# Rows of a table or figure, in its order. A stream has no answer to some videos; there it is shown with the other's.
CONTROLS = {
    "majority": "always the most frequent class",
    "file_properties": "file header alone (size, rate, duration, ...)",
    "single_frame": "single frames, averaged",
    "mean_pool": "mean feature, no order",
    "mean_and_motion": "mean and amount of motion, no order",
    "shuffled": "the model, frames in random order",
    "reversed": "the model, frames backwards",
    "rgb": "RGB, or flow where there is no RGB",
    "flow": "optical flow, or RGB where there is no flow",
}

# As the subject of a sentence: what a score is first held against. Models that cannot know the order of frames; for a
# fusion, each of its streams.
SIMPLER = {
    "single_frame": "a single frame",
    "mean_pool": "the mean of the features over time",
    "rgb": "RGB (or flow where there is no RGB)",
    "flow": "optical flow (or RGB where there is no flow)",
}
