"""What streams, controls, heads and changes are called in tables, figures and sentences."""

STREAMS = {"fused": "both streams", "rgb": "RGB", "flow": "optical flow"}  # in the order of the page

# Rows of a table or figure, in its order. A stream has no answer to some videos; there it is shown with the other's.
CONTROLS = {
    "majority": "always the most frequent class",
    "file_properties": "file properties alone (size, rate, light, ...)",
    "single_frame": "single frames, averaged",
    "mean_pool": "mean feature, no order",
    "mean_and_motion": "mean and amount of motion, no order",
    "shuffled": "the model, frames in random order",
    "reversed": "the model, frames backwards",
    "rgb": "RGB, or flow where there is no RGB",
    "flow": "optical flow, or RGB where there is no flow",
}

# In the frame task these see something else than in the clip task: the second around a timestep, and the time.
FRAME_CONTROLS = {
    "file_properties": "file properties and the clock, no picture",
    "mean_pool": "mean feature of the second around, no order",
}

# As the subject of a sentence: what a score is first held against. Models that cannot know the order of frames; for a
# fusion, each of its streams.
SIMPLER = {
    "single_frame": "a single frame",
    "mean_pool": "the mean of the features over time",
    "rgb": "RGB (or flow where there is no RGB)",
    "flow": "optical flow (or RGB where there is no flow)",
}
FRAME_SIMPLER = {**SIMPLER, "mean_pool": "the mean of the features of the second around"}

# What the shaded weight of a moment is, by the head of the network.
HEADS = {
    "mean": "Shaded: what each moment counts in the answer; this head takes the mean, so all count the same.",
    "last": "Shaded: what each moment counts in the answer; this head takes the last moment alone.",
    "ramp": "Shaded: what each moment counts in the answer; with this head later moments count more.",
    "attention": "Shaded: the attention of the head, which has learned what each moment counts in the answer.",
    "frame": "Each moment has an answer of its own.",
}

# What the probe does to a video, in the order of its table.
CHANGES = {
    "background_blurred": "background blurred",
    "background_replaced": "background replaced by another video's",
    "background_median": "background filled with its median colour",
    "person_removed": "person (moving foreground) removed",
    "frozen": "first frame frozen",
    "mirrored": "mirrored",
    "dropped": "every second frame dropped",
    "brighter": "brighter",
    "darker": "darker",
}


def control_name(name: str, task: str) -> str:
    """What a control of the clip or the frame task is called in tables and figures."""
    own = FRAME_CONTROLS if task == "frame" else {}
    return own.get(name) or CONTROLS.get(name) or name.replace("_", " ")
