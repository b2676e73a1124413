"""Numbers that nnU-Net 2.8.1 keeps inside of its command line, for those who call what is below it."""

_PREPROCESSING_PROCESSES = {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}
_PREPROCESSING_PROCESSES_OTHERWISE = 4


def preprocessing_processes(configuration: str) -> int:
    """Return the processes that preprocess a configuration (``plan_and_preprocess_entry``)."""
    return _PREPROCESSING_PROCESSES.get(configuration, _PREPROCESSING_PROCESSES_OTHERWISE)
