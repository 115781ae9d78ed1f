"""A model folder behind MLflow's pyfunc interface; MLflow stores this file itself beside the folder (models from code).

With `tracking.py`, `trackingstore.py` and `modelstore.py` the only importer of mlflow. Needs this package installed
where the model is loaded.
"""

import os
import weakref
from typing import Any

import mlflow.models
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR
from mlflow.pyfunc.model import PythonModel

from pipeline.errors import LrcnError, RequestError
from pipeline.inference.recognizer import Recognizer
from pipeline.inference.served import Served
from pipeline.video.limits import Limits

TIMEOUT = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"  # seconds, set by `mlflow models serve`


class RecognizerModel(PythonModel):
    """Rows of features, paths or videos in, a record for each out; see `Served.answer`."""

    _served: Served

    def load_context(self, context: Any) -> None:
        """Read the model folder that was logged; raises ModelError when it is damaged.

        In a server no file, and no request's files, are read for longer than a request may take: nobody waits for the
        answer any more.
        """
        seconds = os.environ.get(TIMEOUT)
        limits = Limits() if seconds is None else Limits(seconds_per_file=float(seconds))
        recognizer = Recognizer.load(context.artifacts["model"], limits=limits)
        weakref.finalize(self, recognizer.close)
        self._served = Served(recognizer) if seconds is None else Served(recognizer, float(seconds))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """A record for each row.

        Args:
            context: unused; MLflow hands it over.
            model_input: columns `features`, `path`, `video`, of which each row has one; see `Served.answer`.
            params: `precision` and `timesteps`, see there.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE (400) for a request that is none, INTERNAL_ERROR (500) when
                nothing can be answered.
        """
        names = [str(name) for name in model_input.columns]
        rows = [dict(zip(names, row, strict=True)) for row in model_input.itertuples(index=False, name=None)]
        try:
            return self._served.answer(rows, **(params or {}))
        except RequestError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        except LrcnError as error:
            raise MlflowException(str(error), error_code=INTERNAL_ERROR) from None


mlflow.models.set_model(RecognizerModel())
