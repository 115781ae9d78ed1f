"""A model folder behind MLflow's pyfunc interface; MLflow stores this file itself beside the folder (models from code).

With `tracking.py` the only importer of mlflow. Needs this package installed where the model is loaded.
"""

from typing import Any

import mlflow.models
import numpy as np
from mlflow.pyfunc.model import PythonModel

from pipeline.models.modelfolder import Model, load_model


class RecognizerModel(PythonModel):
    """Feature sequences in, class probabilities out."""

    model: Model

    def load_context(self, context: Any) -> None:
        """Read the model folder that was logged; raises ModelError when it is damaged."""
        self.model = load_model(context.artifacts["model"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Calibrated class probabilities of a batch of videos of equal length.

        Args:
            context: unused; MLflow hands it over.
            model_input: (B, T, D) float32, a row per timestep of the model's view; (B, T, crops, D) where the view has
                several crops, over which the probabilities are averaged.
            params: unused; MLflow hands it over.

        Returns:
            float32, (B, K) for a clip model, (B, T, K) for a frame model.

        Raises:
            ModelError: D is not the network's feature size, or T is 0.
        """
        return np.stack([self.model.predict_features(features) for features in model_input])


mlflow.models.set_model(RecognizerModel())
