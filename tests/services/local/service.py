"""What one service has to tell about itself; when and in which order it is asked is in `lifecycle`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from .processes import Launch

# What tests use in every service; made at the start of the local ones, expected to be there in those of others.
BUCKET = "tidemill"
DATABASE = "tidemill"


@dataclass(frozen=True)
class Place:
    """Where a service runs: its installation, its data, its ports by name, its log."""

    installed: Path
    data: Path
    ports: dict[str, int]
    log: Path


class Service(ABC):
    """One service. Holds no state: what is running is known from the run folder alone."""

    name: str
    version: str
    # The ports by name; the first is the one in the address.
    ports: tuple[str, ...]
    # The variable that names a service which runs already and is to be used instead.
    variable: str
    # How long it may take to answer, and to end when asked to, in seconds.
    start_patience: float = 60
    stop_patience: float = 10
    # Whether it is left alone unless it is named.
    optional: bool = False

    @abstractmethod
    def install(self, folder: Path, log: Path) -> None:
        """Puts the service into an empty folder, which is renamed afterwards: no path of it may be stored inside."""

    @abstractmethod
    def prepare(self, place: Place) -> Launch:
        """Writes configuration, makes data folders, and tells how to start. The data of an earlier start stays."""

    @abstractmethod
    def address(self, port: int) -> str:
        """The address of the service, as its clients want it, given its first port."""

    @abstractmethod
    def check(self, address: str) -> None:
        """Sends one real request; raises OSError unless the service can be worked with."""

    @abstractmethod
    def exports(self, address: str) -> dict[str, str]:
        """The variables that tell clients of the service where it is."""

    def beside(self, place: Place) -> dict[str, str]:
        """Variables beside those, known where it runs as one of ours."""
        return {}

    def furnish(self, address: str) -> None:
        """Makes what tests expect to be there, once the service answers."""

    @property
    def installation(self) -> str:
        """The name of the installation's folder."""
        return f"{self.name}-{self.version}"
