# A module for snmpsim: outlets whose command and state are two cells with numbers of their own, as PowerNet-MIB and PDU2-MIB have them.
#
# In a recording, `command=NAME,on=1,off=2,cycle=3` is the cell that is written, `state=NAME,on=2,off=1` the one that is read. An outlet is off at first. Each write is
# noted in the file that is this module's option: the outlet and the number.
outlets = {}
noted = {}


def init(**context):
    noted["file"] = context["options"]


def variate(oid, tag, value, **context):
    if not context["nextFlag"] and not context["exactMatch"]:
        return context["origOid"], tag, context["errorStatus"]
    cell = dict(part.split("=") for part in value.split(","))
    name = cell.get("command") or cell["state"]
    on, off = int(cell["on"]), int(cell["off"])
    if context["setFlag"]:
        written = int(context["origValue"])
        if "state" in cell or written not in (on, off, int(cell["cycle"])):
            return context["origOid"], tag, context["errorStatus"]
        with open(noted["file"], "a") as file:
            file.write("%s %d\n" % (name, written))
        outlets[name] = written != off
        return oid, tag, context["origValue"]
    return oid, tag, on if outlets.get(name) else off


def shutdown(**context):
    pass
