// framed_client.mjs SOCKET RECIPIENT: status, send and one event through npm framed-msgpack-rpc (Keybase's framing).
// The package is looked for from the current directory. Exit 0 if all of it was right.
import assert from 'node:assert';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.cwd(), 'x.js'));
const { Transport, Client } = require('framed-msgpack-rpc');

const [socket, recipient] = process.argv.slice(2);
const quiet = { set_remote() {}, info() {}, debug() {}, warn: console.error, error: console.error, fatal: console.error };
const deadline = setTimeout(() => { console.error('timed out'); process.exit(1); }, 15000);

const transport = new Transport({ path: socket, log_obj: quiet });
await new Promise((resolve, reject) => transport.connect((e) => (e ? reject(e) : resolve())));
const client = new Client(transport);
const call = (method, params) => new Promise((resolve, reject) =>
  client.invoke(method, [params], (e, result) => (e ? reject(e) : resolve(result))));

const events = [];
let arrived = () => {};
transport.add_handler('event', ([event]) => { events.push(event); arrived(); });
async function waitFor(matches) {
  while (!events.some(matches)) await new Promise((resolve) => { arrived = resolve; });
  return events.find(matches);
}

const status = await call('status', {});
console.log('status:', status.state, status.user);
await assert.rejects(call('send', { to: 'nobody' }), (e) => e[0] === 1 && e[1].startsWith('INVALID_PARAMS: '));
await call('subscribe', { after: status.last_seq });
const sent = await call('send', { to: recipient, text: 'from framed-msgpack-rpc' });
console.log('sent:', sent);
console.log('event:', await waitFor((e) => e.type === 'message_ack' && e.id === sent.id));
clearTimeout(deadline);
transport.close();
