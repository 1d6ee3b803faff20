#!/usr/bin/python3
"""pynvim_client.py SOCKET RECIPIENT: status, send and one event through pynvim's MessagePack-RPC client (Debian
python3-pynvim, /usr/bin/python3). Prints what came; exit 0 if all of it was right."""
import sys

from pynvim.api.nvim import NvimError
from pynvim.msgpack_rpc import socket_session

EVENTS = 50


def check_error(session):
    try:
        session.request('send', {'to': 'nobody'})
    except NvimError as e:
        assert str(e).startswith('INVALID_PARAMS: '), e
        print('error:', e)
    else:
        raise AssertionError('send without a text was accepted')


def wait_for_ack(session, ident):
    for _ in range(EVENTS):
        message = session.next_message()
        assert message, 'the connection ended'
        kind, name, args = message
        assert (kind, name) == ('notification', 'event'), message
        event = args[0]
        if event['type'] == 'message_ack' and event['id'] == ident:
            return event
    raise AssertionError('no message_ack came')


def main():
    path, recipient = sys.argv[1:]
    session = socket_session(path)
    session.error_wrapper = lambda e: NvimError(e[1])
    status = session.request('status')
    print('status:', status['state'], status['user'])
    check_error(session)
    session.request('subscribe', {'after': status['last_seq']})
    sent = session.request('send', {'to': recipient, 'text': 'from pynvim'})
    print('sent:', sent)
    print('event:', wait_for_ack(session, sent['id']))
    session.close()


if __name__ == '__main__':
    main()
