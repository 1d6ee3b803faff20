// Compares e2eed's ML-KEM-768 with that of the npm package @noble/post-quantum, both ways, over random cases.
//     node mlkem_noble.mjs TOOL [NODE_MODULES] [BACKEND] [CASES]
// TOOL is the program built from mlkem_tool.c. NODE_MODULES (or else NODE_PATH) is the directory that holds the
// package; nothing is installed here. BACKEND is builtin, openssl or empty. Status 77: the package is not there.
import { randomBytes } from 'node:crypto';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [tool, modules = process.env.NODE_PATH, backend, cases = '250'] = process.argv.slice(2);
if (!tool || !modules) {
    console.error('usage: node mlkem_noble.mjs TOOL [NODE_MODULES] [BACKEND] [CASES]');
    process.exit(2);
}

async function loadNoble() {
    try {
        const require = createRequire(join(resolve(modules), 'x.js'));
        const path = require.resolve('@noble/post-quantum/ml-kem.js', { paths: [resolve(modules, '..')] });
        return (await import(pathToFileURL(path))).ml_kem768;
    } catch (e) {
        console.error(`skipped: @noble/post-quantum is not usable from ${modules}: ${e.message}`);
        process.exit(77);
    }
}

function startTool() {
    const child = spawn(tool, backend ? [backend] : [], { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const ask = async (...words) => {
        child.stdin.write(words.map((w) => (typeof w === 'string' ? w : hex(w))).join(' ') + '\n');
        const { value, done } = await lines.next();
        if (done) throw new Error('mlkem_tool ended early');
        return value.split(' ');
    };
    return { ask, end: () => child.stdin.end() };
}

const hex = (bytes) => Buffer.from(bytes).toString('hex');
let failures = 0;
function same(what, index, ours, theirs) {
    if (ours === theirs) return;
    failures++;
    console.error(`case ${index}: ${what} differ`);
}

// What a peer could send that was not made for the key: one bit of a good ciphertext turned, or noise.
function spoilt(ct, index) {
    if (index % 2) return randomBytes(ct.length);
    const bad = Uint8Array.from(ct);
    bad[randomBytes(2).readUInt16LE() % bad.length] ^= 1 << index % 8;
    return bad;
}

// Sets one coefficient of the public key to a value in [Q, 4096).
function unreduced(pk, index) {
    const bad = Uint8Array.from(pk);
    const at = 3 * ((index * 97) % 384);
    const value = 3329 + (index % 767);
    bad[at] = value & 255;
    bad[at + 1] = (bad[at + 1] & 240) | (value >> 8);
    return bad;
}

async function oneCase(kem, ask, index) {
    const seed = randomBytes(64), rand = randomBytes(32);
    const { publicKey, secretKey } = kem.keygen(seed);
    same('public keys', index, (await ask('keygen', seed))[0], hex(publicKey));

    const { cipherText, sharedSecret } = kem.encapsulate(publicKey, rand);
    const [ct, ss] = await ask('encaps', publicKey, rand);
    same('ciphertexts', index, ct, hex(cipherText));
    same('encapsulated secrets', index, ss, hex(sharedSecret));

    same('decapsulated secrets', index, (await ask('decaps', seed, cipherText))[0], hex(sharedSecret));
    const bad = spoilt(cipherText, index);
    same('implicit rejections', index, (await ask('decaps', seed, bad))[0], hex(kem.decapsulate(bad, secretKey)));
    same('refusals', index, (await ask('encaps', unreduced(publicKey, index), rand)).join(' '), 'error 1');
}

const kem = await loadNoble();
const { ask, end } = startTool();
for (let i = 0; i < Number(cases); i++) await oneCase(kem, ask, i);
end();
console.log(`${Number(cases)} cases, ${failures} differences`);
process.exit(failures ? 1 : 0);
