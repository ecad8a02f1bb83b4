"""S3: versitygw over a local folder, built from source by the Go module proxy's copy."""

from pathlib import Path

from . import installation
from .loopback import HOST, Request, send
from .processes import Launch
from .service import BUCKET, Place, Service

REGION = "us-east-1"
ACCESS_KEY = "tidemill"
SECRET_KEY = "tidemill-secret"


class S3(Service):
    """One endpoint; a bucket is a folder of its data folder."""

    name = "s3"
    version = "versitygw-1.8.0"
    ports = ("http",)
    variable = "S3_ENDPOINT"

    def install(self, folder: Path, log: Path) -> None:
        module = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
        installation.run([installation.tool("go"), "install", module], log, folder, {"GOBIN": str(folder)})

    def prepare(self, place: Place) -> Launch:
        (place.data / BUCKET).mkdir(parents=True, exist_ok=True)
        command = [f"{place.installed}/versitygw", "--port", f"{HOST}:{place.ports['http']}", "--region", REGION,
                   "--quiet", "posix", str(place.data)]
        return Launch(command, {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}, str(place.data))

    def address(self, port: int) -> str:
        return f"http://{HOST}:{port}"

    def check(self, address: str) -> None:
        # Whatever the status is: a request that is not signed gets a refusal.
        send(Request(address))

    def exports(self, address: str) -> dict[str, str]:
        return {"S3_ENDPOINT": address, "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}
