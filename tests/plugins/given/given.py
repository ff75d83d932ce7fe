"""Gives back its arguments as it got them."""


class Given:
    def execute(self, *args, **kwargs):
        return {"args": list(args), "kwargs": kwargs}
