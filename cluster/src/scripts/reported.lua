-- job, number, ticket of the record that the root was told, '1' when the root does not know the job
local job, number = ARGV[1], ARGV[2]
local record = read_local(job, number)
if not record or record.ticket ~= tonumber(ARGV[3]) then return 0 end
if record.gone and ARGV[4] == '1' then
  drop_local(job, number, record)
  forget_if_unused(job)
  return 1
end
record.reported = next_ticket()
write_local(job, number, record)
-- Once the root says so too, the record has done its work.
if record.gone then owe('refresh:' .. job, '') end
return 1
