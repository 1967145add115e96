"""Parameters as pydantic models: the parameters of each pipeline, `globals.yml`, and the specs of workers."""
