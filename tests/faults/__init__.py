"""Files with the faults that a video reader meets, made by code: 35 unusable, 27 damaged and 73 good ones."""
