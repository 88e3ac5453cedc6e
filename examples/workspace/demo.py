"""Give a thread an archive, have an agent work on it, and fetch the report. `horarium up` runs in this directory."""

import asyncio
import io
import zipfile
from pathlib import Path

from horarium import Client


async def main() -> None:
    sales = io.BytesIO()
    with zipfile.ZipFile(sales, "w") as archive:
        archive.writestr("monday.csv", "item,amount\ntea,3\ncake,4\n")
        archive.writestr("tuesday.csv", "item,amount\ntea,5\n")

    async with await Client.connect(directory=Path(__file__).parent) as client:
        asked = await (await client.start("reporter", "I want a report of the sales.")).result()
        print(asked.output)
        thread = asked.thread
        await client.upload_file(thread, "sales.zip", sales.getvalue(), by="ana")

        run = await client.start("reporter", "Count Monday and Tuesday.", thread=thread)
        print((await run.result()).output)

        report = b"".join([piece async for piece in client.download_file(thread, "report.md")])
        print(report.decode(), end="")
        for version in reversed(await client.workspace_versions(thread)):
            who = "the run" if version.run_id else version.by
            print(f"version {version.version}: {version.files} files, by {who}")


asyncio.run(main())
