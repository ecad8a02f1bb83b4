"""Kafka: the real broker, one node that is its own controller (KRaft), from Maven Central."""

import base64
import subprocess
import uuid
from pathlib import Path

from . import installation, kafka_protocol
from .failure import Failure
from .loopback import HOST
from .processes import Launch
from .service import Place, Service

SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{broker}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}

# A test that misspells a topic is to fail.
auto.create.topics.enable=false

# One node: every internal topic has one replica. Few partitions, as each costs time at every start.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0

# After kill -9 the controller first waits for the old broker's session to end: 9 s by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500

# Messages carry the times of their events, which may be years old. Topics that test retention set their own.
log.retention.ms=-1
log.retention.check.interval.ms=10000

# The default of 128 MB is a quarter of the heap.
log.cleaner.dedupe.buffer.size=16777216
"""


class Kafka(Service):
    """A single broker; topics and offsets survive `kill -9`."""

    name = "kafka"
    version = "4.3.1"
    ports = ("broker", "controller")
    variable = "KAFKA_BROKERS"
    start_patience = 90
    stop_patience = 30

    def install(self, folder: Path, log: Path) -> None:
        pom = Path(__file__).with_name("kafka-pom.xml")
        installation.java(17)
        command = [installation.tool("mvn"), "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies",
                   "--batch-mode", "--quiet", f"--file={pom}", f"-Dkafka.version={self.version}",
                   "-DincludeScope=runtime", f"-DoutputDirectory={folder / 'libs'}"]
        installation.run(command, log, folder)

    def prepare(self, place: Place) -> Launch:
        place.data.mkdir(parents=True, exist_ok=True)
        topics = place.data / "topics"
        settings = place.data / "server.properties"
        settings.write_text(SETTINGS.format(host=HOST, data=topics, **place.ports), encoding="utf-8")
        program = [installation.java(17), "-Xms256m", "-Xmx512m", "-Dlog4j2.level=INFO",
                   "-cp", f"{place.installed}/libs/*"]
        if not (topics / "meta.properties").exists():
            self._format(program, settings, place)
        return Launch([*program, "kafka.Kafka", str(settings)], {}, str(place.data))

    @staticmethod
    def _format(program: list[str], settings: Path, place: Place) -> None:
        """Gives an empty data folder its cluster id, without which a broker refuses to start."""
        # The tool would take an id with a leading dash for an option.
        cluster = "-"
        while cluster.startswith("-"):
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [*program, "-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format", "--cluster-id", cluster,
                   "--config", str(settings)]
        with open(place.log, "ab") as log:
            done = subprocess.run(command, cwd=place.data, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if done.returncode != 0:
            raise Failure(f"formatting its data folder ended with {done.returncode}; see {place.log}")

    def address(self, port: int) -> str:
        return f"{HOST}:{port}"

    def check(self, address: str) -> None:
        kafka_protocol.metadata(address)

    def exports(self, address: str) -> dict[str, str]:
        return {"KAFKA_BROKERS": address}
