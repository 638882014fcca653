-- Requests wait here while the map says `live hold-COLOR`: the instance is being replaced. Whichever color is live
-- afterwards gets them; a request that waited too long gets the gateway's own 503.
local live = Map.new("/etc/haproxy/conf/live.map", Map._str)

core.register_action("wait_while_held", {"http-req"}, function(_, seconds)
    local deadline = core.now().sec + tonumber(seconds)
    while string.sub(live:lookup("live") or "", 1, 5) == "hold-" and core.now().sec < deadline do
        core.msleep(20)
    end
end, 1)
