/** Names this process, in audit entries and alerts. */
import { hostname } from 'node:os';

export const REPLICA = `${hostname()}/${process.pid}`;
