/**
 * Reads the contract from the proto files: beside the built client, or in the repository.
 *
 * In the bundled command, `scripts/bundle.js` has what {@link loadContract} returned when it was
 * built in this file's place.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';

/** The contract's own files, below the folder of all. */
const OWN = 'keyward/v1';

/** Returns the contract, read from its files (about 20 ms). */
export function loadContract(): protobuf.Root {
  const folder = protoFolder();
  const root = new protobuf.Root();
  root.resolvePath = (_, name) => join(folder, name);
  const own = readdirSync(join(folder, OWN))
    .sort()
    .map((name) => `${OWN}/${name}`);
  return root.loadSync([...own, 'google/rpc/status.proto', 'google/rpc/error_details.proto']);
}

/** Beside the built file, where the build copies them, else in the repository. */
function protoFolder(): string {
  const besideBuild = fileURLToPath(new URL('./proto', import.meta.url));
  return existsSync(besideBuild)
    ? besideBuild
    : fileURLToPath(new URL('../../proto', import.meta.url));
}
