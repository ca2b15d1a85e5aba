pytest_plugins = ["fixtures.options", "fixtures.workbench", "fixtures.recording"]
