"""The environment variables that lowbit reads, with their meanings; those of its libraries are theirs."""

from collections.abc import Mapping

VARIABLES: Mapping[str, str] = {
    "LOWBIT_STORE": "folder of artifacts and measurements; `--store` goes before it (default: `.lowbit/store`)",
    "LOWBIT_ASSETS": "folder with real detectors and images, as `lowbit fetch` makes it",
    "LOWBIT_OFFLINE": "if set, `lowbit fetch` never connects and says what is missing",
    "LOWBIT_MIRRORS": "starts of addresses and what replaces them: `https://official=https://mirror`, separated by commas",
    "XDG_CACHE_HOME": "where `lowbit fetch` keeps files if neither `--to` nor `LOWBIT_ASSETS` says (default: `~/.cache`)",
    "CUDA_VISIBLE_DEVICES": "the GPUs that may be used; a pytest-xdist worker without it takes one of its own",
    "CUDA_DEVICE_ORDER": "set to `PCI_BUS_ID` unless you set it, so that CUDA counts GPUs as NVML does",
    "OMP_NUM_THREADS": "threads of the libraries in a build, as the session was started with it",
    "GITHUB_ACTIONS": "`true`: what failed or is inconclusive is printed as annotations, which GitHub shows beside the change",
    "GITHUB_STEP_SUMMARY": "a file that the summary is appended to: GitHub shows it on the job's page",
    "CI": "`true` or `1`: an inconclusive verdict fails unless `--inconclusive` or `lowbit.toml` says otherwise; if set at all, progress "
    "is printed as lines and not as a bar",
    "TERM": "`dumb`: likewise",
}
