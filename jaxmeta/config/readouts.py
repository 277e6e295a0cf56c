"""How each kind of task is judged: by what its objective counts, or by what has to be looked up on the host."""

from jaxmeta.config.methods import Setting
from jaxmeta.config.schema import Config
from jaxmeta.run.plan import Readout, readout_of


def readout_for(config: Config, tasks: object, setting: Setting) -> Readout:
    """Returns how the adapted states of a run are judged."""
    del config, tasks
    return readout_of(setting.objective)
