"""Calls without generated code: messages are bytes. Prints what it got, one line each. Arguments: HOST:PORT TOKEN."""

import sys

import grpc

target, token = sys.argv[1:]
channel = grpc.insecure_channel(target)
plain = dict(request_serializer=bytes, response_deserializer=bytes)
check = channel.unary_unary('/grpc.health.v1.Health/Check', **plain)
attach = channel.stream_stream('/portcullis.v1.GrantStream/Attach', **plain)
for with_token in (False, True):
    metadata = [('authorization', 'Bearer ' + token)] if with_token else []
    for service in (b'orders', b'nothing'):
        try:
            print('answer', check(b'\x0a' + bytes([len(service)]) + service, metadata=metadata, timeout=20).hex())
        except grpc.RpcError as error:
            print(error.code().name)
answers = attach(iter([b'', b'']), metadata=metadata, timeout=20)
try:
    for answer in answers:
        print('message')
except grpc.RpcError as error:
    print(error.code().name, error.details())
