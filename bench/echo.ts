/**
 * The floor: a grpc-js server that does nothing but decode a message and encode it again, with the
 * service's TLS.
 *
 * A process of its own, as the service is; says its port to its parent and ends with it. Whatever
 * the service takes more than this is the service's.
 */
import { Server, type ServiceDefinition } from '@grpc/grpc-js';
import { read } from '../src/config.ts';
import { serviceDefinition } from '../src/faces/contract/proto.ts';
import { MutualTlsCredentials } from '../src/faces/grpc/credentials.ts';
import { ECHO_PATH } from './load-protocol.ts';

const settings = read(
  [
    'KEYWARD_TLS_CERT_FILE',
    'KEYWARD_TLS_KEY_FILE',
    'KEYWARD_TLS_CLIENT_CA_FILE',
    'KEYWARD_HANDSHAKE_MS',
    'KEYWARD_MAX_STREAMS',
    'KEYWARD_MAX_HEADER_BYTES',
    'KEYWARD_MAX_HEADERS',
    'KEYWARD_MAX_RESETS_PER_SECOND',
  ],
  process.env,
);
const credentials = new MutualTlsCredentials(
  {
    certFile: settings.KEYWARD_TLS_CERT_FILE,
    keyFile: settings.KEYWARD_TLS_KEY_FILE,
    clientCaFile: settings.KEYWARD_TLS_CLIENT_CA_FILE,
  },
  {
    handshakeMs: settings.KEYWARD_HANDSHAKE_MS,
    maxStreams: settings.KEYWARD_MAX_STREAMS,
    maxHeaderBytes: settings.KEYWARD_MAX_HEADER_BYTES,
    maxHeaders: settings.KEYWARD_MAX_HEADERS,
    maxResetsPerSecond: settings.KEYWARD_MAX_RESETS_PER_SECOND,
  },
);

const encrypt = serviceDefinition('keyward.v1.EncryptionService')['Encrypt'];
if (encrypt === undefined) throw new Error('proto/ has no Encrypt');
const definition: ServiceDefinition = {
  Echo: { ...encrypt, path: ECHO_PATH, responseSerialize: encrypt.requestSerialize },
};

const server = new Server();
server.addService(definition, {
  Echo: (rpc: { request: object }, callback: (error: null, message: object) => void) =>
    callback(null, rpc.request),
});
server.bindAsync('127.0.0.1:0', credentials, (error, port) => {
  if (error) throw error;
  process.send?.(port);
});
process.once('disconnect', () => process.exit(0));
// Ctrl-C reaches the whole group; the bench says when to end.
process.on('SIGINT', () => {});
