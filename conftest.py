pytest_plugins = ["fixtures.options", "fixtures.baselines", "fixtures.workbench", "fixtures.recording"]
