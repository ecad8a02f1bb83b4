"""The schema registry: Apicurio, which speaks Confluent's API under `/apis/ccompat/v7`, from Maven Central."""

import tarfile
from pathlib import Path

from . import installation
from .loopback import HOST, Request, expect_ok
from .processes import Launch
from .service import Place, Service

# Version 17 refuses its class files.
JAVA = 21


class Registry(Service):
    """One registry over a database in a file, so that schemas and their ids survive `kill -9`."""

    name = "registry"
    version = "3.3.3"
    ports = ("http", "management")
    variable = "SCHEMA_REGISTRY_URL"
    start_patience = 90

    def install(self, folder: Path, log: Path) -> None:
        installation.java(JAVA)
        artifact = f"io.apicurio:apicurio-registry-app:{self.version}:tar.gz:all"
        command = [installation.tool("mvn"), "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy",
                   "--batch-mode", "--quiet", f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"]
        installation.run(command, log, folder)
        [archive] = folder.glob("*.tar.gz")
        with tarfile.open(archive) as content:
            content.extractall(folder, filter="data")
        archive.unlink()

    def prepare(self, place: Place) -> Launch:
        place.data.mkdir(parents=True, exist_ok=True)
        # It is started often and works little, so its code is compiled once and quickly.
        command = [installation.java(JAVA), "-Xmx300m", "-XX:TieredStopAtLevel=1",
                   "-jar", f"{place.installed}/quarkus-run.jar"]
        environment = {
            "QUARKUS_HTTP_HOST": HOST,
            "QUARKUS_HTTP_PORT": str(place.ports["http"]),
            # Would listen on 9000 otherwise.
            "QUARKUS_MANAGEMENT_HOST": HOST,
            "QUARKUS_MANAGEMENT_PORT": str(place.ports["management"]),
            "APICURIO_STORAGE_KIND": "sql",
            "APICURIO_STORAGE_SQL_KIND": "h2",
            # Without the delay of half a second an answered request is on disk.
            "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{place.data}/registry;WRITE_DELAY=0",
        }
        return Launch(command, environment, str(place.data))

    def address(self, port: int) -> str:
        return f"http://{HOST}:{port}/apis/ccompat/v7"

    def check(self, address: str) -> None:
        expect_ok(Request(f"{address}/subjects"))

    def exports(self, address: str) -> dict[str, str]:
        return {"SCHEMA_REGISTRY_URL": address}
