"""The same broker behind TLS, passwords and rights, for tests of what is refused. Started only where it is named.

Listeners: PLAINTEXT (everything is allowed), TLS, SASL (PLAIN passwords, no encryption). Users of SASL: `writer` may do
everything, `reader` may read and begin transactions, and `nobody` may do nothing. Their passwords are `NAME-secret`, or
what the file `passwords` in the data folder says (`NAME PASSWORD` a line) when the broker is started again.
"""

import subprocess
from pathlib import Path

from . import installation, kafka_protocol
from .failure import Failure
from .kafka import SETTINGS, Kafka
from .loopback import HOST
from .processes import Launch
from .service import Place

USERS = ("writer", "reader", "nobody")
STORE_PASSWORD = "not-a-secret"
SECURE = """
listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller},TLS://{host}:{tls},SASL://{host}:{sasl}
advertised.listeners=PLAINTEXT://{host}:{broker},TLS://{host}:{tls},SASL://{host}:{sasl}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,SASL:SASL_PLAINTEXT
ssl.keystore.type=PKCS12
ssl.keystore.location={store}
ssl.keystore.password={store_password}
listener.name.sasl.sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:writer
"""


class KafkaSecure(Kafka):
    """A broker of its own; `KAFKA_SECURE_*` say where it listens, `KAFKA_SECURE_CA` who signed its certificate."""

    name = "kafka-secure"
    ports = ("broker", "controller", "tls", "sasl")
    variable = "KAFKA_SECURE_BROKERS"
    optional = True

    @property
    def installation(self) -> str:
        return f"kafka-{self.version}"

    def prepare(self, place: Place) -> Launch:
        place.data.mkdir(parents=True, exist_ok=True)
        store = place.data / "keystore.p12"
        if not store.exists():
            self._certify(store, place)
        launch = super().prepare(place)
        settings = place.data / "server.properties"
        given = dict(line.split() for line in self._passwords(place).splitlines())
        users = " ".join(f'user_{user}="{given.get(user, user + "-secret")}"' for user in USERS)
        secure = SECURE.format(host=HOST, store=store, store_password=STORE_PASSWORD, users=users, **place.ports)
        # Where a setting is given twice the last one counts.
        with settings.open("a", encoding="utf-8") as file:
            file.write(secure)
        return launch

    @staticmethod
    def _passwords(place: Place) -> str:
        passwords = place.data / "passwords"
        return passwords.read_text(encoding="utf-8") if passwords.exists() else ""

    @staticmethod
    def _certify(store: Path, place: Place) -> None:
        keytool = Path(installation.java(17)).with_name("keytool")
        common = ["-keystore", str(store), "-storetype", "PKCS12", "-storepass", STORE_PASSWORD, "-alias", "broker"]
        commands = [
            [str(keytool), "-genkeypair", "-keyalg", "EC", "-dname", "CN=broker", "-validity", "3650",
             "-ext", f"san=ip:{HOST}", *common],
            [str(keytool), "-exportcert", "-rfc", "-file", str(place.data / "ca.pem"), *common],
        ]
        for command in commands:
            with open(place.log, "ab") as log:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            if done.returncode != 0:
                raise Failure(f"keytool ended with {done.returncode}; see {place.log}")

    def furnish(self, address: str) -> None:
        """What `reader` may do: anything but write to topics."""
        kafka_protocol.allow(address, "User:reader")

    def exports(self, address: str) -> dict[str, str]:
        return {"KAFKA_SECURE_BROKERS": address}

    def beside(self, place: Place) -> dict[str, str]:
        return {"KAFKA_SECURE_TLS": f"{HOST}:{place.ports['tls']}", "KAFKA_SECURE_SASL": f"{HOST}:{place.ports['sasl']}",
                "KAFKA_SECURE_CA": str(place.data / "ca.pem"), "KAFKA_SECURE_PASSWORDS": str(place.data / "passwords")}
