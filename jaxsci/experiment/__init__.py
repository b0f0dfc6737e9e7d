"""Experiments: configurations, claims, results, and what runs them."""

from jaxsci.experiment.claim import Claim as Claim
from jaxsci.experiment.config import Above as Above
from jaxsci.experiment.config import Between as Between
from jaxsci.experiment.config import Config as Config
from jaxsci.experiment.logger import JsonLines as JsonLines
from jaxsci.experiment.logger import Logger as Logger
from jaxsci.experiment.logger import Sink as Sink
from jaxsci.experiment.logger import read_metrics as read_metrics
from jaxsci.experiment.progress import ProgressBar as ProgressBar
from jaxsci.experiment.result import Result as Result
