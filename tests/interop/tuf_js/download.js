// Verify a repository with tuf-js and download targets: node download.js MODULES URL FOLDER NAME...
// FOLDER/metadata/root.json is trusted. Prints one JSON object: name -> path of the verified file.
"use strict";
const path = require("node:path");
const [modules, url, folder, ...names] = process.argv.slice(2);
const { Updater } = require(path.join(modules, "tuf-js"));

async function main() {
  const updater = new Updater({
    metadataDir: path.join(folder, "metadata"),
    metadataBaseUrl: `${url}/metadata`,
    targetDir: path.join(folder, "targets"),
    targetBaseUrl: `${url}/targets`,
  });
  await updater.refresh();
  const found = {};
  for (const name of names) {
    const info = await updater.getTargetInfo(name);
    if (!info) throw new Error(`not listed: ${name}`);
    found[name] = await updater.downloadTarget(info);
  }
  console.log(JSON.stringify(found));
}

main().catch((error) => {
  console.error(`${error.name}: ${error.message}`);
  process.exit(1);
});
