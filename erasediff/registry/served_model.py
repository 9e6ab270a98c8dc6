"""The registered model, from code: concepts in, PNG pictures out. MLflow loads this file itself."""

import base64
from functools import wraps

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException


class NoRequest(MlflowException):
    """Answered with 400 and one line: MLflow would put a copy of the rows before the message."""

    def __init__(self, reason):
        self.reason = " ".join(str(reason).split())[:500]
        super().__init__(self.reason, error_code=1000)  # INVALID_PARAMETER_VALUE

    @property
    def message(self):
        return self.reason

    @message.setter
    def message(self, longer):
        pass


def refusing_unknown_params(enforce):
    """MLflow's check of a request's params, for this model's: one that MLflow would drop without a word is refused."""

    @wraps(enforce)
    def enforced(params, schema):
        from erasediff.errors import EraseDiffError
        from erasediff.registry.served_request import OPTIONS, require_known

        if schema is None or {spec.name for spec in schema.params} != set(OPTIONS):
            return enforce(params, schema)  # of another model in this process
        try:
            require_known(params)
            return enforce(params, schema)
        except (EraseDiffError, MlflowException) as error:
            raise NoRequest(error) from None

    return enforced


class ErasedModel(mlflow.pyfunc.PythonModel):
    """Draws a picture a row of the columns ``concept`` (text) and ``seed`` (whole number; the row's place by default).

    The same concept and seed give the same picture, wherever they stand in a request.
    """

    def load_context(self, context):
        import erasediff
        from erasediff.device import device
        from erasediff.families import family_of

        self.family = family_of(erasediff.load(context.artifacts["pipeline"]).to(device()))

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        from erasediff.data.images import encode_png
        from erasediff.errors import EraseDiffError
        from erasediff.registry.served_request import read_request

        family = self.family
        try:
            asked = read_request(
                model_input,
                params,
                known=family.concepts or (),
                default_steps=family.default_steps,
                max_steps=family.num_timesteps,
            )
            images = family.sample(asked.concepts, asked.seeds, steps=asked.steps, guidance_scale=asked.guidance_scale)
        except EraseDiffError as error:
            raise NoRequest(error) from None
        pngs = [base64.b64encode(encode_png(image)).decode() for image in images]
        return pd.DataFrame({"concept": asked.concepts, "png_base64": pngs})


# There is no public place to do it. The version's requirements pin the MLflow that has this function.
if not hasattr(mlflow.pyfunc._enforce_params_schema, "__wrapped__"):
    mlflow.pyfunc._enforce_params_schema = refusing_unknown_params(mlflow.pyfunc._enforce_params_schema)
mlflow.models.set_model(ErasedModel())
