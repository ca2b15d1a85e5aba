pytest_plugins = [
    "lowbit_pytest.options",
    "lowbit_pytest.baselines",
    "lowbit_pytest.workbench",
    "lowbit_pytest.recording",
]
