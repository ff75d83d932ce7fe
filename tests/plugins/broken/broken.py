"""Classes that cannot be made ready."""


class ConstructError:
    def __init__(self):
        raise RuntimeError("no room for a model")

    def execute(self):
        return None


class InitializeError:
    def initialize(self, config=None):
        raise ValueError("the model is for another machine")

    def get_config_schema(self):
        return {"type": "object", "properties": {"model": {"type": "string", "default": "small"}}}

    def execute(self):
        return None
